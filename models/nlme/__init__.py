"""Nonlinear mixed-effects models: structural models, dosing, simulation, PyMC population models and estimation.

Import what you need from the modules: :mod:`models.nlme.simulation.simulate` (light: neither PyMC nor PyTensor is imported until
a symbolic expression is needed), :mod:`models.nlme.bayes.pymc_model` (PyMC), :mod:`models.nlme.library` (models by name).
"""
