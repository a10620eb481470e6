"""Work in other processes, on this machine or on a Ray cluster. They end when the process that started them ends."""
