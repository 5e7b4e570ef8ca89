# The page on a CPU: docker build -t rcdm . && docker run -p 7860:7860 rcdm
FROM python:3.12-slim

# TORCH_INDEX: an index with CPU builds of torch makes the image several GB smaller.
ARG TORCH_INDEX=""
WORKDIR /app
COPY requirements.txt ./
RUN if [ -n "$TORCH_INDEX" ]; then \
      grep -E '^(torch|torchvision)==' requirements.txt > torch.txt \
      && pip install --no-cache-dir --index-url "$TORCH_INDEX" -r torch.txt \
      && grep -vE '^(torch|torchvision|triton|nvidia-[a-z0-9-]+|cuda-[a-z]+)==' requirements.txt > rest.txt \
      && pip install --no-cache-dir -r rest.txt; \
    else pip install --no-cache-dir -r requirements.txt; fi

COPY pyproject.toml README.md LICENSE app.py ./
COPY rcdm ./rcdm
COPY checkpoints ./checkpoints
RUN useradd --create-home --uid 1000 visitor && python -m compileall -q rcdm
USER visitor
ENV HOME=/home/visitor RCDM_HOST=0.0.0.0 RCDM_PORT=7860 GRADIO_ANALYTICS_ENABLED=False
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:7860/health', timeout=4)"]
CMD ["python", "app.py"]
