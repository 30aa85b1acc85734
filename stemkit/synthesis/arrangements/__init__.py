"""Positions, heights and widths of atomic columns in batches of images, in torch, on any device.

Positions are in px, ``(y, x)``, with pixel centres at integers. Numerical parameters are one number for all images or a
tensor with one for each; random functions take a generator on the device.
"""
