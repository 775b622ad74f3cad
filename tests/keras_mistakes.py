"""Keras scripts with mistakes, each marked `# error: CODE` in the line where it is reported."""

MISTAKES = {
    "main_builder": """\
import tensorflow as tf
from tensorflow.keras import layers, mixed_precision

def build_model(n):
    inp = layers.Input((784,))
    x = layers.Dense(128, activation="relu")(inp)
    out = layers.Dense(n, activation="softmax")(x)  # error: MP502
    return tf.keras.Model(inp, out)

def main():
    model = build_model(10)
    mixed_precision.set_global_policy("mixed_float16")  # error: MP501
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x, y)

if __name__ == "__main__":
    main()
""",
    "subclass_tape": """\
import tensorflow as tf
tf.keras.mixed_precision.set_global_policy("mixed_float16")

class Net(tf.keras.Model):
    def __init__(self):
        super().__init__()
        self.d1 = tf.keras.layers.Dense(64, activation="relu")
        self.d2 = tf.keras.layers.Dense(10)  # error: MP502

    def call(self, x, training=False):
        return self.d2(self.d1(x))

model = Net()
opt = tf.keras.optimizers.SGD(0.1)
loss_fn = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)

@tf.function
def train_step(x, y):
    with tf.GradientTape() as tape:
        loss = loss_fn(y, model(x, training=True))
    grads = tape.gradient(loss, model.trainable_variables)
    opt.apply_gradients(zip(grads, model.trainable_variables))  # error: MP503
    return loss

for x, y in dataset:
    train_step(x, y)
""",
    "train_step": """\
import keras
import tensorflow as tf
keras.mixed_precision.set_global_policy("mixed_float16")

class Net(keras.Model):
    def __init__(self):
        super().__init__()
        self.d = keras.layers.Dense(10, dtype="float32")

    def call(self, x):
        return self.d(x)

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(y=y, y_pred=y_pred)
        grads = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(grads, self.trainable_variables))  # error: MP504
        return {"loss": loss}

model = Net()
model.compile("sgd", "mse")
model.fit(x, y)
""",
    "trainer_class": """\
import tensorflow as tf
from tensorflow import keras

class Trainer:
    def __init__(self, model, lr):
        self.model = model
        self.optimizer = keras.mixed_precision.LossScaleOptimizer(keras.optimizers.Adam(lr))
        self.loss = keras.losses.MeanSquaredError()

    @tf.function
    def step(self, x, y):
        with tf.GradientTape() as tape:
            pred = self.model(x, training=True)
            loss = self.loss(y, pred)
        vs = self.model.trainable_weights
        g = tape.gradient(loss, vs)
        g, _ = tf.clip_by_global_norm(g, 1.0)
        self.optimizer.apply_gradients(zip(g, vs))  # error: MP504
        return loss

keras.mixed_precision.set_global_policy("mixed_float16")
model = keras.Sequential([
    keras.layers.Dense(4, activation="relu"),
    keras.layers.Dense(1, dtype="float32"),
])
t = Trainer(model, 1e-3)
for x, y in ds:
    t.step(x, y)
""",
    "sequential_add": """\
from keras.models import Sequential
from keras.layers import Dense, Activation, Dropout
import keras
model = Sequential()
model.add(Dense(64))
model.add(Activation("relu"))
model.add(Dropout(0.5))
model.add(Dense(10))
model.add(Activation("softmax"))  # error: MP401 MP502
keras.config.set_dtype_policy("mixed_float16")  # error: MP501
model.compile(loss=keras.losses.CategoricalCrossentropy(from_logits=True), optimizer="adam")
model.fit(x, y)
""",
    "policy_object_if_flag": """\
import tensorflow as tf
import argparse
p = argparse.ArgumentParser(); p.add_argument("--amp", action="store_true")
args = p.parse_args()
model = tf.keras.Sequential([
    tf.keras.layers.Dense(8, activation="relu"),
    tf.keras.layers.Dense(1, activation="sigmoid"),  # error: MP502
])
if args.amp:
    policy = tf.keras.mixed_precision.Policy("mixed_float16")
    tf.keras.mixed_precision.set_global_policy(policy)  # error: MP501
model.compile(optimizer="adam", loss="binary_crossentropy")
model.fit(x, y)
""",
    "bce_sigmoid": """\
import tensorflow as tf
model = tf.keras.Sequential([
    tf.keras.layers.Dense(8, "relu"),
    tf.keras.layers.Dense(1, activation="sigmoid"),  # error: MP401
])
model.compile("adam", loss=tf.keras.losses.BinaryCrossentropy(from_logits=True))
model.fit(x, y)
""",
    "tf_nn": """\
import tensorflow as tf
class M(tf.keras.Model):
    def __init__(self):
        super(M, self).__init__()
        self.out = tf.keras.layers.Dense(10)
    def call(self, x):
        return tf.nn.softmax(self.out(x))  # error: MP401
m = M()
loss_fn = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
for x, y in ds:
    with tf.GradientTape() as tape:
        p = m(x)
        loss = loss_fn(y, p)
    g = tape.gradient(loss, m.trainable_variables)
""",
    "strategy_run": """\
import tensorflow as tf
tf.keras.mixed_precision.set_global_policy("mixed_float16")
strategy = tf.distribute.MirroredStrategy()
with strategy.scope():
    model = tf.keras.Sequential([
        tf.keras.layers.Dense(4),
        tf.keras.layers.Dense(1, dtype="float32"),
    ])
    optimizer = tf.keras.optimizers.Adam()
    loss_obj = tf.keras.losses.MeanSquaredError(reduction="none")
def train_step(inputs):
    x, y = inputs
    with tf.GradientTape() as tape:
        pred = model(x, training=True)
        per = loss_obj(y, pred)
        loss = tf.nn.compute_average_loss(per, global_batch_size=64)
    grads = tape.gradient(loss, model.trainable_variables)
    optimizer.apply_gradients(zip(grads, model.trainable_variables))  # error: MP503
    return loss
@tf.function
def distributed(inputs):
    losses = strategy.run(train_step, args=(inputs,))
    return strategy.reduce(tf.distribute.ReduceOp.SUM, losses, axis=None)
for x in ds:
    distributed(x)
""",
    "step_not_called": """\
import tensorflow as tf
tf.keras.mixed_precision.set_global_policy("mixed_float16")
model = tf.keras.Sequential([tf.keras.layers.Dense(4), tf.keras.layers.Dense(1, dtype="float32")])
optimizer = tf.keras.optimizers.Adam()
def train_step(x, y):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(y - model(x, training=True)))
    grads = tape.gradient(loss, model.trainable_variables)
    optimizer.apply_gradients(zip(grads, model.trainable_variables))  # error: MP503
""",
    "gan": """\
import tensorflow as tf
from tensorflow.keras import layers
tf.keras.mixed_precision.set_global_policy("mixed_float16")
def make_gen():
    m = tf.keras.Sequential()
    m.add(layers.Dense(64, use_bias=False, input_shape=(100,)))
    m.add(layers.LeakyReLU())
    m.add(layers.Dense(784, activation="tanh", dtype="float32"))
    return m
def make_disc():
    m = tf.keras.Sequential()
    m.add(layers.Dense(64))
    m.add(layers.Dense(1))  # error: MP502
    return m
g = make_gen()
d = make_disc()
ce = tf.keras.losses.BinaryCrossentropy(from_logits=True)
def d_loss(real, fake):
    return ce(tf.ones_like(real), real) + ce(tf.zeros_like(fake), fake)
def g_loss(fake):
    return ce(tf.ones_like(fake), fake)
go = tf.keras.optimizers.Adam(1e-4)
do = tf.keras.optimizers.Adam(1e-4)
@tf.function
def train_step(images):
    noise = tf.random.normal([32, 100])
    with tf.GradientTape() as gt, tf.GradientTape() as dt:
        fake = g(noise, training=True)
        ro = d(images, training=True)
        fo = d(fake, training=True)
        gl = g_loss(fo)
        dl = d_loss(ro, fo)
    gg = gt.gradient(gl, g.trainable_variables)
    dg = dt.gradient(dl, d.trainable_variables)
    go.apply_gradients(zip(gg, g.trainable_variables))  # error: MP503
    do.apply_gradients(zip(dg, d.trainable_variables))  # error: MP503
for b in ds:
    train_step(b)
""",
    "lso_scale_discarded": """\
import tensorflow as tf, keras
keras.mixed_precision.set_global_policy("mixed_float16")
m = keras.Sequential([keras.layers.Dense(3, dtype="float32")])
opt = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD())
lf = keras.losses.MeanSquaredError()
for x, y in ds:
    with tf.GradientTape() as t:
        loss = lf(y, m(x))
        opt.scale_loss(loss)
    opt.apply(t.gradient(loss, m.trainable_variables), m.trainable_variables)  # error: MP504
""",
    "model_optimizer_after_compile": """\
import tensorflow as tf, keras
keras.mixed_precision.set_global_policy("mixed_float16")
m = keras.Sequential([keras.layers.Dense(3, dtype="float32")])
m.compile(optimizer=keras.optimizers.SGD(), loss="mse")
lf = keras.losses.MeanSquaredError()
for x, y in ds:
    with tf.GradientTape() as t:
        loss = lf(y, m(x))
    g = t.gradient(loss, m.trainable_variables)
    m.optimizer.apply_gradients(zip(g, m.trainable_variables))  # error: MP504
""",
    "nested_models": """\
import keras
from keras import layers
enc = keras.Sequential([layers.Dense(8, activation="relu")])
dec = keras.Sequential([layers.Dense(4, activation="sigmoid")])  # error: MP502
ae = keras.Sequential([enc, dec])
keras.mixed_precision.set_dtype_policy("mixed_float16")  # error: MP501
ae.compile("adam", "binary_crossentropy")
ae.fit(x, x)
""",
    "accumulated_grads": """\
import tensorflow as tf
tf.keras.mixed_precision.set_global_policy("mixed_float16")
model = tf.keras.Sequential([tf.keras.layers.Dense(8), tf.keras.layers.Dense(1, dtype="float32")])
opt = tf.keras.optimizers.Adam()
for x, y in ds:
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((model(x) - y) ** 2)
        loss = loss / 4.0
    grads = tape.gradient(loss, model.trainable_variables)
    grads = [tf.clip_by_norm(g, 1.0) for g in grads]
    opt.apply_gradients([(g, v) for g, v in zip(grads, model.trainable_variables)])  # error: MP503
""",
    "class_attr": """\
from tensorflow import keras
class Experiment:
    def __init__(self):
        self.model = keras.Sequential([
            keras.layers.Dense(4),
            keras.layers.Dense(2, activation="softmax"),  # error: MP502
        ])
        self.enable()
    def enable(self):
        keras.mixed_precision.set_global_policy("mixed_float16")  # error: MP501
    def run(self, x, y):
        self.model.compile("adam", "categorical_crossentropy")
        self.model.fit(x, y)
e = Experiment()
e.run(x, y)
""",
    "two_losses_persistent": """\
import tensorflow as tf
tf.keras.mixed_precision.set_global_policy("mixed_float16")
enc = tf.keras.Sequential([tf.keras.layers.Dense(8), tf.keras.layers.Dense(4, dtype="float32")])
dec = tf.keras.Sequential([tf.keras.layers.Dense(8), tf.keras.layers.Dense(4, dtype="float32")])
o1 = tf.keras.mixed_precision.LossScaleOptimizer(tf.keras.optimizers.Adam())
o2 = tf.keras.mixed_precision.LossScaleOptimizer(tf.keras.optimizers.Adam())
for x in ds:
    with tf.GradientTape(persistent=True) as tape:
        z = enc(x)
        r = dec(z)
        l1 = tf.reduce_mean(tf.square(r - x))
        s1 = o1.scale_loss(l1)
    g1 = tape.gradient(s1, enc.trainable_variables)
    g2 = tape.gradient(l1, dec.trainable_variables)
    o1.apply_gradients(zip(g1, enc.trainable_variables))
    o2.apply_gradients(zip(g2, dec.trainable_variables))  # error: MP504
""",
    "lambda_loss": """\
import tensorflow as tf
from functools import partial
m = tf.keras.Sequential([
    tf.keras.layers.Dense(8),
    tf.keras.layers.Dense(4, activation="softmax"),  # error: MP401
])
m.compile(
    "adam",
    loss=lambda t, p: tf.keras.losses.categorical_crossentropy(t, p, from_logits=True),
)
m.fit(x, y)
""",
    "dict_losses": """\
import keras
from keras import layers
i = keras.Input((4,))
a = layers.Dense(3, activation="softmax", name="kind")(i)  # error: MP401
b = layers.Dense(1, name="size")(i)
m = keras.Model(i, [a, b])
m.compile("adam", loss={"kind": keras.losses.CategoricalCrossentropy(from_logits=True), "size": "mse"})
m.fit(x, y)
""",
    "functional_subclass": """\
import keras
keras.mixed_precision.set_global_policy("mixed_float16")
class Net(keras.Model):
    def __init__(self):
        i = keras.Input((4,))
        h = keras.layers.Dense(8)(i)
        o = keras.layers.Dense(3, activation="softmax")(h)  # error: MP502
        super().__init__(i, o)
m = Net()
m.compile("adam", "categorical_crossentropy")
m.fit(x, y)
""",
    "enable_amp_later": """\
import tensorflow as tf
def enable_amp():
    tf.keras.mixed_precision.set_global_policy("mixed_float16")  # error: MP501
def get_model():
    inputs = tf.keras.Input((8,))
    h = tf.keras.layers.Dense(8, activation="relu")(inputs)
    return tf.keras.Model(inputs, tf.keras.layers.Dense(1, dtype="float32")(h))
def train(model, data):
    model.compile(optimizer=tf.keras.optimizers.Adam(), loss="mse")
    model.fit(data)
model = get_model()
enable_amp()
train(model, data)
""",
    "subclass_fit": """\
import keras
from keras import layers
keras.mixed_precision.set_global_policy("mixed_float16")
class Block(layers.Layer):
    def __init__(self, n):
        super().__init__()
        self.d = layers.Dense(n, activation="relu")
    def call(self, x):
        return self.d(x)
class Net(keras.Model):
    def __init__(self, n, **kw):
        super().__init__(**kw)
        self.blocks = [Block(4), Block(8)]
        self.head = layers.Dense(n, activation="softmax")  # error: MP502
    def call(self, x, training=None):
        for b in self.blocks:
            x = b(x)
        return self.head(x)
m = Net(3)
m.compile(optimizer="adam", loss="categorical_crossentropy")
m.fit(x, y)
""",
}
