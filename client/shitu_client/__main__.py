"""`python -m shitu_client` is `shitu`."""

from shitu_client.cli import main

if __name__ == "__main__":
    main()
