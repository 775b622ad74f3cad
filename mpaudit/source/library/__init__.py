"""What calls to known libraries do: summaries in place of the libraries' own code.

One package for each library, one module for each part of it; what a module registers counts as soon as
it is imported. A summary is a function of a `Call`; it makes values, learns facts about them and emits
events. `None` means that this call is not one it knows.
"""

from __future__ import annotations

import mpaudit.source.library.contexts
import mpaudit.source.library.keras.autocast
import mpaudit.source.library.keras.dtype
import mpaudit.source.library.keras.half_loss
import mpaudit.source.library.keras.input_range
import mpaudit.source.library.keras.layers
import mpaudit.source.library.keras.losses
import mpaudit.source.library.keras.mixing
import mpaudit.source.library.keras.models
import mpaudit.source.library.keras.optimizers
import mpaudit.source.library.keras.policy
import mpaudit.source.library.keras.predictions
import mpaudit.source.library.keras.raw_loss
import mpaudit.source.library.keras.scaling
import mpaudit.source.library.keras.tape
import mpaudit.source.library.keras.training
import mpaudit.source.library.logarithm
import mpaudit.source.library.python.builtins
import mpaudit.source.library.python.classes
import mpaudit.source.library.python.numpy_range
import mpaudit.source.library.python.setattr
import mpaudit.source.library.tensorflow.constants
import mpaudit.source.library.tensorflow.masks
import mpaudit.source.library.tensorflow.running
import mpaudit.source.library.tensorflow.squares
import mpaudit.source.library.tensorflow.variables
import mpaudit.source.library.torch.activation
import mpaudit.source.library.torch.amp
import mpaudit.source.library.torch.autograd
import mpaudit.source.library.torch.backward
import mpaudit.source.library.torch.bare
import mpaudit.source.library.torch.chain
import mpaudit.source.library.torch.checkpoint
import mpaudit.source.library.torch.constants
import mpaudit.source.library.torch.containers
import mpaudit.source.library.torch.default
import mpaudit.source.library.torch.fsdp
import mpaudit.source.library.torch.gradient
import mpaudit.source.library.torch.gradient_read
import mpaudit.source.library.torch.half
import mpaudit.source.library.torch.half_kept
import mpaudit.source.library.torch.half_loss
import mpaudit.source.library.torch.half_running
import mpaudit.source.library.torch.half_squares
import mpaudit.source.library.torch.hook
import mpaudit.source.library.torch.index_write
import mpaudit.source.library.torch.loss_read
import mpaudit.source.library.torch.nn
import mpaudit.source.library.torch.optim
import mpaudit.source.library.torch.pair
import mpaudit.source.library.torch.penalty
import mpaudit.source.library.torch.pretrained
import mpaudit.source.library.torch.region
import mpaudit.source.library.torch.region_missed
import mpaudit.source.library.torch.release
import mpaudit.source.library.torch.sanitize
import mpaudit.source.library.torch.schedule
import mpaudit.source.library.torch.tensor
import mpaudit.source.library.torch.threads
import mpaudit.source.library.torch.timm_scaler
import mpaudit.source.library.torch.unsupported
import mpaudit.source.library.torch.wrapped
import mpaudit.source.library.trainers.accelerate
import mpaudit.source.library.trainers.accelerate_division
import mpaudit.source.library.trainers.accelerate_loop
import mpaudit.source.library.trainers.deepspeed_config
import mpaudit.source.library.trainers.deepspeed_engine
import mpaudit.source.library.trainers.hf_arguments
import mpaudit.source.library.trainers.hf_trainer
import mpaudit.source.library.trainers.lightning_fabric
import mpaudit.source.library.trainers.lightning_module
import mpaudit.source.library.trainers.lightning_refusal
import mpaudit.source.library.trainers.lightning_trainer
import mpaudit.source.library.trainers.loops
import mpaudit.source.library.trainers.owned
import mpaudit.source.library.trainers.region
import mpaudit.source.library.unseen
