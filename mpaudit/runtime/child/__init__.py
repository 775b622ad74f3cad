"""What is put on the PYTHONPATH of the processes that a watched script starts."""
