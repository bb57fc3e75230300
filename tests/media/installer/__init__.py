"""The stand-in for Anaconda: executes a kickstart as Anaconda 34 (EL 9) does.

Pure modules (`packages`, `storage_plan`, `bootargs`) are tested on the host by
`tests/media/selftest`; the others act on the machine being installed.
"""
