"""torch: tensors and their dtypes, layers, autocast regions, scalers, optimizers, gradients."""
