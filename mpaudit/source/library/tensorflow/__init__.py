"""TensorFlow below Keras: operations, variables, masks and sums of 16 bits."""
