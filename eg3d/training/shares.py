"""How a batch is cut, over processes and into micro-batches, so that no minibatch-std group of D is ever cut."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SharedBatch:
    """How a batch is cut: rows of each process, images a forward pass, samples of an uncut minibatch-std group."""

    rows: list[list[int]]
    micro_batch: int
    group: int

    @property
    def is_alone(self) -> bool:
        """Whether every image has a forward pass of its own: no statistic over a minibatch, no swapped cameras."""
        return self.micro_batch == 1 and sum(map(len, self.rows)) > 1


def shared_batch(batch: int, micro_batch: int, *, num_ranks: int = 1, group: int = 1) -> SharedBatch:
    """Cut a batch over processes and forward passes so that every minibatch-std group stays whole.

    Forward passes of one image have no groups: the statistic is then a constant, as in the published fine-tuning.
    Raises ValueError in one line when it cannot be done.
    """
    if batch % num_ranks:
        raise ValueError(f"batch: {batch} does not divide over {num_ranks} processes; give a multiple of {num_ranks}")
    local, group = batch // num_ranks, min(group, batch)
    micro_batch = min(micro_batch or local, local)
    if local % micro_batch:
        raise ValueError(f"micro_batch: {micro_batch} does not divide the {local} images of a process; give a divisor")
    if micro_batch == 1 and batch > 1:
        group = 1
    if batch % group or micro_batch % group:
        what = f"batch: {batch}" if batch % group else f"micro_batch: {micro_batch}"
        raise ValueError(
            f"{what} images cut the discriminator's minibatch-std groups of {group}; give a multiple of {group}, "
            f"or discriminator.mbstd_group_size that divides it"
        )
    return SharedBatch(whole_groups(batch, num_ranks, group), micro_batch, group)


def whole_groups(num: int, parts: int, group: int = 1) -> list[list[int]]:
    """Rows of `num` samples for each of `parts` equal parts that cut no minibatch-std group of `group` samples.

    The discriminator puts row n into group n mod (num / group); a part takes neighbouring groups, with their rows in
    the order that makes them the same groups again. Raises ValueError when groups do not divide evenly.
    """
    columns = num // group
    if num % group or columns % parts:
        raise ValueError(f"{num} samples in groups of {group} do not divide into {parts} equal parts")
    share = columns // parts
    return [
        [member * columns + part * share + column for member in range(group) for column in range(share)]
        for part in range(parts)
    ]
