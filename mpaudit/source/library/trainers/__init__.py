"""Libraries that run the loop or a part of it: Accelerate, DeepSpeed, Lightning, transformers."""
