"""Keras scripts that look like a mistake and are none: nothing is reported."""

LOOKALIKES = {
    "policy_first_logits": """\
import keras
keras.mixed_precision.set_global_policy("mixed_float16")
m = keras.Sequential([keras.layers.Dense(8), keras.layers.Dense(3, dtype="float32")])
m.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
m.fit(x, y)
""",
    "policy_then_second_model": """\
import keras
warm = keras.Sequential([keras.layers.Dense(8), keras.layers.Dense(3)])
warm.compile("adam", "mse")
warm.fit(x, y)
keras.mixed_precision.set_global_policy("mixed_float16")
warm.fit(x, y)
m = keras.Sequential([keras.layers.Dense(8), keras.layers.Dense(3, dtype="float32")])
m.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
m.fit(x, y)
""",
    "policy_reset": """\
import keras
keras.mixed_precision.set_global_policy("mixed_float16")
m = keras.Sequential([keras.layers.Dense(8), keras.layers.Activation("softmax", dtype="float32")])
keras.mixed_precision.set_global_policy("float32")
m.compile("adam", "categorical_crossentropy")
m.fit(x, y)
""",
    "late_but_reset": """\
import keras
m = keras.Sequential([keras.layers.Dense(8), keras.layers.Dense(2, "softmax")])
keras.mixed_precision.set_global_policy("mixed_float16")
keras.mixed_precision.set_global_policy("float32")
m.compile("adam", "categorical_crossentropy")
m.fit(x, y)
""",
    "constant_flag": """\
import tensorflow as tf
MIXED = False
m = tf.keras.Sequential([tf.keras.layers.Dense(2, activation="softmax")])
if MIXED:
    tf.keras.mixed_precision.set_global_policy("mixed_float16")
m.compile("adam", "categorical_crossentropy")
m.fit(x, y)
""",
    "isinstance": """\
import tensorflow as tf
from tensorflow.keras import mixed_precision
mixed_precision.set_global_policy("mixed_float16")
m = tf.keras.Sequential([tf.keras.layers.Dense(8), tf.keras.layers.Dense(2, dtype="float32")])
opt = mixed_precision.LossScaleOptimizer(tf.keras.optimizers.Adam())
for x, y in ds:
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(y - m(x)))
        scaled = opt.scale_loss(loss) if isinstance(opt, mixed_precision.LossScaleOptimizer) else loss
    g = tape.gradient(scaled, m.trainable_variables)
    opt.apply_gradients(zip(g, m.trainable_variables))
""",
    "hasattr": """\
import tensorflow as tf
from tensorflow.keras import mixed_precision
mixed_precision.set_global_policy("mixed_float16")
m = tf.keras.Sequential([tf.keras.layers.Dense(8), tf.keras.layers.Dense(2, dtype="float32")])
opt = mixed_precision.LossScaleOptimizer(tf.keras.optimizers.Adam())
for x, y in ds:
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(y - m(x)))
        if hasattr(opt, "get_scaled_loss"):
            scaled = opt.get_scaled_loss(loss)
        else:
            scaled = opt.scale_loss(loss)
    g = tape.gradient(scaled, m.trainable_variables)
    if hasattr(opt, "get_unscaled_gradients"):
        g = opt.get_unscaled_gradients(g)
    opt.apply_gradients(zip(g, m.trainable_variables))
""",
    "manual_scaling": """\
import tensorflow as tf
tf.keras.mixed_precision.set_global_policy("mixed_float16")
m = tf.keras.Sequential([tf.keras.layers.Dense(8), tf.keras.layers.Dense(2, dtype="float32")])
opt = tf.keras.optimizers.Adam()
SCALE = 1024.0
for x, y in ds:
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(y - m(x))) * SCALE
    g = tape.gradient(loss, m.trainable_variables)
    g = [v / SCALE for v in g]
    opt.apply_gradients(zip(g, m.trainable_variables))
""",
    "loss_scale_factor": """\
import tensorflow as tf
tf.keras.mixed_precision.set_global_policy("mixed_float16")
m = tf.keras.Sequential([tf.keras.layers.Dense(8), tf.keras.layers.Dense(2, dtype="float32")])
opt = tf.keras.optimizers.Adam(loss_scale_factor=512.0)
for x, y in ds:
    with tf.GradientTape() as tape:
        loss = opt.scale_loss(tf.reduce_mean(tf.square(y - m(x))))
    g = tape.gradient(loss, m.trainable_variables)
    opt.apply_gradients(zip(g, m.trainable_variables))
""",
    "from_logits_flag": """\
import keras
def build(logits):
    m = keras.Sequential([
        keras.layers.Dense(8),
        keras.layers.Dense(3, activation=None if logits else "softmax"),
    ])
    m.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=logits))
    return m
build(flag)
build(True)
build(False)
""",
    "prob_model": """\
import tensorflow as tf
m = tf.keras.Sequential([tf.keras.layers.Dense(8), tf.keras.layers.Dense(3)])
p = tf.keras.Sequential([m, tf.keras.layers.Softmax()])
m.compile("adam", tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True))
m.fit(x, y)
p.predict(x)
""",
    "two_outputs_logits_used": """\
import tensorflow as tf
from tensorflow.keras import layers
i = layers.Input((4,))
logits = layers.Dense(3)(i)
probs = layers.Activation("softmax")(logits)
m = tf.keras.Model(i, [logits, probs])
lf = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
for x, y in ds:
    with tf.GradientTape() as t:
        lo, pr = m(x)
        loss = lf(y, lo)
    g = t.gradient(loss, m.trainable_variables)
""",
    "own_head_dtype_var": """\
import tensorflow as tf
tf.keras.mixed_precision.set_global_policy("mixed_float16")
HEAD = tf.float32
m = tf.keras.Sequential([
    tf.keras.layers.Dense(8),
    tf.keras.layers.Dense(3, activation="softmax", dtype=HEAD),
])
m.compile("adam", "categorical_crossentropy")
m.fit(x, y)
""",
    "cast_logits": """\
import tensorflow as tf
tf.keras.mixed_precision.set_global_policy("mixed_float16")
m = tf.keras.Sequential([tf.keras.layers.Dense(8), tf.keras.layers.Dense(3)])
opt = tf.keras.mixed_precision.LossScaleOptimizer(tf.keras.optimizers.Adam())
lf = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
for x, y in ds:
    with tf.GradientTape() as t:
        out = tf.cast(m(x), tf.float32)
        loss = lf(y, out)
        s = opt.scale_loss(loss)
    opt.apply_gradients(zip(t.gradient(s, m.trainable_variables), m.trainable_variables))
""",
    "load_model": """\
import tensorflow as tf
m = tf.keras.models.load_model("m.keras")
tf.keras.mixed_precision.set_global_policy("mixed_float16")
m.compile("adam", "mse")
m.fit(x, y)
""",
    "policy_before_load": """\
import tensorflow as tf
a = tf.keras.Sequential([tf.keras.layers.Dense(3)])
tf.keras.mixed_precision.set_global_policy("mixed_float16")
a.compile("adam", "mse"); a.fit(x, y)
m = tf.keras.models.load_model("m.keras")
""",
    "unknown_policy": """\
import tensorflow as tf
def main(cfg):
    tf.keras.mixed_precision.set_global_policy(cfg.policy)
    m = tf.keras.Sequential([tf.keras.layers.Dense(3, activation="softmax")])
    m.compile("adam", "categorical_crossentropy")
    m.fit(x, y)
""",
    "custom_loop_float32": """\
import tensorflow as tf
m = tf.keras.Sequential([tf.keras.layers.Dense(3, activation="softmax")])
opt = tf.keras.optimizers.Adam()
lf = tf.keras.losses.SparseCategoricalCrossentropy()
for x, y in ds:
    with tf.GradientTape() as t:
        loss = lf(y, m(x))
    opt.apply_gradients(zip(t.gradient(loss, m.trainable_variables), m.trainable_variables))
""",
    "inference_only": """\
import tensorflow as tf
tf.keras.mixed_precision.set_global_policy("mixed_float16")
m = tf.keras.Sequential([tf.keras.layers.Dense(3, activation="softmax")])
m.load_weights("w.h5")
p = m.predict(x)
""",
    "auto_scale_off_float": """\
import keras, tensorflow as tf
class Net(keras.Model):
    def __init__(self):
        super().__init__()
        self.d = keras.layers.Dense(3)
    def call(self, x):
        return self.d(x)
    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(y=y, y_pred=self(x))
        g = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(g, self.trainable_variables))
m = Net()
m.compile("adam", "mse")
m.fit(x, y)
""",
    "train_step_auto_scale_off": """\
import keras, tensorflow as tf
keras.mixed_precision.set_global_policy("mixed_float16")
class Net(keras.Model):
    def __init__(self):
        super().__init__()
        self.d = keras.layers.Dense(3, dtype="float32")
    def call(self, x):
        return self.d(x)
    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(y=y, y_pred=self(x))
        g = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(g, self.trainable_variables))
m = Net()
m.compile("adam", "mse", auto_scale_loss=False)
m.fit(x, y)
""",
    "tf_keras": """\
import tensorflow as tf
import tf_keras as keras
keras.mixed_precision.set_global_policy("mixed_float16")
class Net(keras.Model):
    def __init__(self):
        super().__init__()
        self.d = keras.layers.Dense(3, dtype="float32")
    def call(self, x):
        return self.d(x)
    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(y=y, y_pred=self(x))
        self.optimizer.minimize(loss, self.trainable_variables, tape=tape)
m = Net()
m.compile("adam", "mse")
m.fit(x, y)
""",
    "super_train_step": """\
import keras
keras.mixed_precision.set_global_policy("mixed_float16")
class Net(keras.Model):
    def __init__(self):
        super().__init__()
        self.d = keras.layers.Dense(3, dtype="float32")
    def call(self, x):
        return self.d(x)
    def train_step(self, data):
        return super().train_step(data)
m = Net()
m.compile("adam", "mse")
m.fit(x, y)
""",
    "policy_in_loop": """\
import keras
for policy in ("float32", "mixed_float16"):
    keras.mixed_precision.set_global_policy(policy)
    m = keras.Sequential([keras.layers.Dense(8), keras.layers.Dense(3, dtype="float32")])
    m.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    m.fit(x, y)
""",
    "normalizer_before": """\
import keras
norm = keras.layers.Normalization()
norm.adapt(x)
keras.mixed_precision.set_global_policy("mixed_float16")
m = keras.Sequential([norm, keras.layers.Dense(8), keras.layers.Dense(3, dtype="float32")])
m.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
m.fit(x, y)
""",
    "attention": """\
import keras
from keras import layers
keras.mixed_precision.set_global_policy("mixed_float16")
i = layers.Input((8, 4))
w = layers.Dense(8, activation="softmax")(i)
h = layers.Dot(axes=1)([w, i])
o = layers.Dense(2, activation="softmax", dtype="float32")(h)
m = keras.Model(i, o)
m.compile("adam", "categorical_crossentropy")
m.fit(x, y)
""",
    "unknown_helper_scales": """\
import tensorflow as tf
from mylib import scale_it
tf.keras.mixed_precision.set_global_policy("mixed_float16")
m = tf.keras.Sequential([tf.keras.layers.Dense(8), tf.keras.layers.Dense(2, dtype="float32")])
opt = tf.keras.mixed_precision.LossScaleOptimizer(tf.keras.optimizers.Adam())
for x, y in ds:
    with tf.GradientTape() as tape:
        loss = scale_it(opt, tf.reduce_mean(tf.square(y - m(x))))
    g = tape.gradient(loss, m.trainable_variables)
    opt.apply_gradients(zip(g, m.trainable_variables))
""",
    "bf16": """\
import tensorflow as tf
tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
m = tf.keras.Sequential([tf.keras.layers.Dense(8), tf.keras.layers.Dense(2, activation="softmax")])
opt = tf.keras.optimizers.Adam()
lf = tf.keras.losses.CategoricalCrossentropy()
for x, y in ds:
    with tf.GradientTape() as tape:
        loss = lf(y, m(x))
    g = tape.gradient(loss, m.trainable_variables)
    opt.apply_gradients(zip(g, m.trainable_variables))
""",
    "clear_session": """\
import tensorflow as tf
for fold in range(5):
    tf.keras.backend.clear_session()
    tf.keras.mixed_precision.set_global_policy("mixed_float16")
    m = tf.keras.Sequential([
        tf.keras.layers.Dense(8),
        tf.keras.layers.Dense(2, activation="softmax", dtype="float32"),
    ])
    m.compile("adam", "categorical_crossentropy")
    m.fit(x, y)
""",
}
