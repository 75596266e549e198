"""python -m sculpting_nerf: the command `sculpt` where its script is not on the path."""

from sculpting_nerf.command import main

main()
