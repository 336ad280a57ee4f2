"""What lives while the process lives: engines, queues, bundles, jobs, metrics, logs, signals."""
