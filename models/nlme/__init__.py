"""Nonlinear mixed-effects models: structural models, dosing, simulation, PyMC population models and estimation.

Depends on ``core`` alone. Inside, imports point one way: model ← kernels ← data ← simulation ← estimation ← diagnostics
and bayes; library needs model, and results of estimation look up their models in it. :mod:`.compile_solvers` uses all.
"""
