"""The flows, one module each. Importing one shortens the log of errors (:mod:`tasks.engine.prefect_setup`)."""

from image_longitudinal.tasks.engine.prefect_setup import log_errors_in_one_line

log_errors_in_one_line()
