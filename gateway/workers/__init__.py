"""Several processes behind one port: the supervisor, its crew of workers, and what a worker does differently."""
