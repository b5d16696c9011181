"""Workers on the machines of a Ray cluster. Knows nothing of studies, databases and training.

Ray is spoken to by a process of its own (`driver`), which the program starts and talks with through pipes (`orders`):
Ray's command line, log and signal handlers are then not the program's, whatever becomes of Ray does not end the
program, and no URL with a password is where Ray shows it.
"""
