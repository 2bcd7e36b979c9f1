"""The U-Net, its trainable copy, what the copy hands over and how it enters (Eq. 4-9); shapes are read from weights."""
