"""Engine of depthwise layers, with channels in the lanes of a vector."""
