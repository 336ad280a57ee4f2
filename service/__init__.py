"""The living process: a FastAPI service that denoises, classifies and audits itself."""
