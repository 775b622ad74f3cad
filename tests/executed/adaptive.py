"""The optimizers whose steps do not depend on a constant factor in the gradients."""

NAMES = ("Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "Adagrad", "Adadelta")
