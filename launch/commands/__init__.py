"""The commands of the command line, one file each: `command(arguments)` takes what follows the name, returns an exit code.

A file imports what is slow to import (torch, Ray) inside its functions, so that help and lists come at once.
"""
