"""The other direction: a convolution as branches that train better and fold back to it."""
