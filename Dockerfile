# An image for a JupyterHub, or for one person:
#   docker build -t mamlpp .
#   docker run --rm -p 8888:8888 mamlpp
# On a machine without a GPU, name the index of PyTorch's CPU builds; that saves several GB:
#   docker build -t mamlpp --build-arg PIP_EXTRA_INDEX_URL=… .
FROM python:3.12-slim

ARG PIP_EXTRA_INDEX_URL=
ARG JUPYTERHUB=5

RUN useradd --create-home --uid 1000 student \
 && install --directory --owner=student --group=student /home/student/mamlpp
WORKDIR /home/student/mamlpp
COPY --chown=student:student . .
# What notebooks draw and download is kept in the image, readable for all.
ENV MAMLPP_CACHE=/home/student/cache
RUN python -m pip install --no-cache-dir -c constraints.txt -e '.[lab]' "jupyterhub==${JUPYTERHUB}.*"
USER 1000
RUN mamlpp data glyphs

EXPOSE 8888
# A hub starts `jupyterhub-singleuser` in the place of this.
CMD ["jupyter", "lab", "--ip=0.0.0.0", "--no-browser", \
     "--LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb"]
