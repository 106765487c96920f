"""What jobs measure, passed on to the trackers that they name in `report_to`.

Their libraries are large, start threads, catch signals and speak to networks. So each runs in a process of its own that
is fed lines through a pipe (channel.py, process.py), and what becomes of it changes nothing but what it shows:
feed.py listens to jobs' lives and never waits; sinks.py has what is said to each library.
"""
