# %% [markdown]
# # A room's response from a recording
#
# How does a room answer to a single clap? Play any broad-band sound, record it, and find the response that turns the
# one into the other: its echoes, and the time after which the sound has decayed by 60 dB.

# %%
import numpy as np
from matplotlib import pyplot

import convolith as cl

# %% [markdown]
# The room is simulated, so that the answer is known: direct sound, five early echoes, and reverberation that decays by
# 60 dB in 0.4 s. Six seconds of noise are played, and the recording has noise of its own, 30 dB below the sound.

# %%
rate, taps = 8000, 4000
rng = np.random.default_rng(0)
time = np.arange(taps) / rate
room = 0.05 * rng.normal(size=taps) * 10 ** (-3 * time / 0.4) * (time > 0.004)
for delay, gain in {4: 1, 11: 0.55, 17: -0.4, 23: 0.35, 29: -0.25, 38: 0.2}.items():
    room[delay * rate // 1000] += gain

played = rng.normal(size=6 * rate)
recorded = np.convolve(played, room)[: len(played)]
recorded += 10 ** (-30 / 20) * recorded.std() * rng.normal(size=len(played))

# %% [markdown]
# `fit` solves the least-squares problem with one equation for each sample of the recording and 4000 unknowns. With that
# many, it takes conjugate gradients with Fourier transforms, and never forms the matrix. Only samples whose whole past
# is in `played` have an equation, hence `recorded[taps - 1:]`.

# %%
found = cl.fit(played, recorded[taps - 1 :], kernel_size=taps)
response = found.impulse_response[0, 0]
print(found)
error = np.linalg.norm(response - room) / np.linalg.norm(room)
print(f"the response differs from the true one by {error:.1%}")
assert error < 0.05

# %% [markdown]
# The energy that is still to come at each time is the decay curve (Schroeder 1965). The reverberation time is read from
# its slope between -5 and -35 dB, extended to 60 dB.


# %%
def decay(h):
    """Return the energy from each sample on, in dB of the whole."""
    energy = np.cumsum(h[::-1] ** 2)[::-1]
    return 10 * np.log10(energy / energy[0])


level = decay(response)
straight = (level < -5) & (level > -35)
slope, start = np.polyfit(time[straight], level[straight], 1)
reverberation = -60 / slope
print(f"reverberation time {reverberation:.3f} s")
assert abs(reverberation - 0.4) < 0.02

# %% [markdown]
# Above, the first 100 ms: the response that was found lies on the true one. Below, the decay that was found follows the
# true one over 40 dB, until the noise of the recording takes over. That is enough for the reverberation time.

# %%
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#AAAAAA"
figure, (waves, curves) = pyplot.subplots(2, 1, figsize=(7, 5.8), dpi=150, layout="constrained")
waves.plot(1000 * time, room, color=GREY, linewidth=5, label="true")
waves.plot(1000 * time, response, color=BLUE, linewidth=1.5, label="found")
waves.set_title("a room's response, from a sound and its recording", fontsize=15)
waves.set(xlim=(0, 100))

curves.plot(1000 * time, decay(room), color=GREY, linewidth=5, label="true")
curves.plot(1000 * time, level, color=BLUE, linewidth=2, label="found")
curves.plot(
    1000 * time, start + slope * time, color=ORANGE, linestyle="--", linewidth=2, label="slope from -5 to -35 dB"
)
curves.plot(1000 * reverberation, start - 60, "o", color=ORANGE, markersize=9)
words = f"reverberation time {reverberation:.2f} s"
curves.text(1000 * reverberation - 20, start - 62, words, ha="right", va="center", color=ORANGE, fontsize=14)
curves.set(xlim=(0, 500), ylim=(-73, 3))
curves.set_xlabel("time (ms)", fontsize=13)
curves.set_ylabel("energy to come (dB)", fontsize=13)
for axis in (waves, curves):
    axis.legend(fontsize=13, frameon=False)
    axis.tick_params(labelsize=11)
    axis.spines[["top", "right"]].set_visible(False)
