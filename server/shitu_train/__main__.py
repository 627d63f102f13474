"""`python -m shitu_train`: draw, train, export, evaluate."""

from __future__ import annotations

from shitu_train.commands import commands

if __name__ == "__main__":
    commands()
