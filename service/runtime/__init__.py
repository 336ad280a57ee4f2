"""What the process itself is made of: connections, metrics, logs, traces, processes beside it."""
