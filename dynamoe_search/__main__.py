"""`python -m dynamoe_search` is the same as `dynamoe-search`."""

from dynamoe_search.cli.app import main

if __name__ == "__main__":
    main()
