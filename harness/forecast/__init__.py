"""What a run will take and what it took: time, memory, disk, operations, energy and cost, each with its method."""
