"""`python -m medlens.phantom --evaluate [NAME] | --show OUT`: the same as `medlens phantom evaluate` and `medlens phantom show`."""

import sys

from medlens.cli import main

if __name__ == "__main__":
    given = sys.argv[1:]
    command = {"--evaluate": ["evaluate"], "--show": ["show", "--out"]}
    sys.argv[1:] = ["phantom", *(word for argument in given for word in command.get(argument, [argument]))]
    main()
