"""What is wrong here? Examinations of a model on this machine, each told in one line."""
