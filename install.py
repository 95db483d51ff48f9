# Nothing to install: the host brings all that is needed.
