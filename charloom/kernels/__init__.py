"""Quantized Linears and the GPU kernels behind them. Knows tensors, not models."""
