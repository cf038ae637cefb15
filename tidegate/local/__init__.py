"""Everything on one machine: the processes behind `tidegate up`."""
