"""Pictures of tasks and of what a run recorded."""
