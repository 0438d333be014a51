"""Numerics in pure PyTorch: log-probs, advantages, masks over tokens and lines, sampling."""
