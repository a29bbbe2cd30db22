"""`python -m mergeopt`"""

from mergeopt.cli.main import main

if __name__ == "__main__":
    main()
