"""The command line: read the arguments, make one call, write the answer."""
