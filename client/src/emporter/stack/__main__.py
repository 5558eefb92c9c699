"""`python -m emporter.stack OPTIONS`: the supervisor of a detached stack."""

import sys

from emporter.stack.detached import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
