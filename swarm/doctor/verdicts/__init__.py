"""What is seen, judged: values in, findings out, no I/O."""
