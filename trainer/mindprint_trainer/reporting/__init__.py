"""Reports of a trainer: progress, logs, experiment loggers, the dry run."""
