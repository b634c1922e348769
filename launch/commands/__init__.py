"""The commands, one file each: `command(arguments)` takes what follows the name and returns an exit code.

A file imports what is slow to import (torch, Ray) inside its functions, so that help and lists come at once.
"""
