"""The virtual system calls: WASI preview 1 over an abstract file system, clock and source of randomness.

Pure: nothing here opens a host file, reads a host clock or knows the engine. All state of a guest's
operating system lives here, as plain data.
"""
