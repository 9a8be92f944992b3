"""What answers are measured by: one file a metric."""
