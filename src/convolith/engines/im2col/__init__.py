"""Engine of strided and dilated layers with many output channels: gathered taps, multiplied by the pointwise code."""
