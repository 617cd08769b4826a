"""The real services that tests talk to: found running, or installed and started.

A test takes a fixture of :mod:`tests.services.fixtures`; a person takes ``make services``, which is
``python -m tests.services start``. A service that an environment variable names is used as it is.
Otherwise one process of each service is shared by everyone who works in this checkout: the first
who needs it starts it, and it ends with its last user, however that user ended.
"""
