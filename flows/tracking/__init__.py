"""What is recorded: runs, registered models and their history. Only this folder imports mlflow."""
