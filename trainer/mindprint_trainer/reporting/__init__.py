"""What a trainer reports: progress, logs, experiment loggers, a dry run."""
