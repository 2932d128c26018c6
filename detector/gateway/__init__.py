"""The gate as a service for proxies: NGINX's ``auth_request`` and Envoy's ``ext_authz`` ask it before each request."""
