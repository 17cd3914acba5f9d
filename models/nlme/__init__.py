"""Nonlinear mixed-effects models: structural models, dosing, simulation, PyMC population models and estimation.

Import what you need from the modules: :mod:`models.nlme.simulation` (light: neither PyMC nor PyTensor is imported until
a symbolic expression is needed), :mod:`models.nlme.bayes` (PyMC), :mod:`models.nlme.library` (models by name).
"""
