"""Progress bars: counting up to where resumed work stands."""

from eg3d.progress import progress_bar, reaching


def test_a_resumed_count_jumps_to_where_it_stands() -> None:
    steps: list[int] = []
    reach = reaching(steps.append)
    for done in (41, 42, 45):
        reach(done, 50)
    assert steps == [41, 1, 3]


def test_a_bar_is_silent_without_a_terminal(capfd) -> None:  # type: ignore[no-untyped-def]
    with progress_bar("work", 3) as advance:
        advance()
        advance(2)
    assert capfd.readouterr() == ("", "")
