{{/* Written by `make helm-files`. */}}
{{- define "mge-cache-sidecar.settingNames" -}}
key_prefix: MGE_CACHE_KEY_PREFIX
store_timeout: MGE_CACHE_STORE_TIMEOUT
breaker_failures: MGE_CACHE_BREAKER_FAILURES
breaker_retry: MGE_CACHE_BREAKER_RETRY
feed_timeout: MGE_CACHE_FEED_TIMEOUT
l1_max: MGE_CACHE_L1_MAX
ttl: MGE_CACHE_TTL
namespace_ttl: MGE_CACHE_NAMESPACE_TTL
ttl_max: MGE_CACHE_TTL_MAX
ttl_jitter: MGE_CACHE_TTL_JITTER
lease_ttl: MGE_CACHE_LEASE_TTL
wait_max: MGE_CACHE_WAIT_MAX
answer_max: MGE_CACHE_ANSWER_MAX
prompt_max: MGE_CACHE_PROMPT_MAX
tags_max: MGE_CACHE_TAGS_MAX
namespaces_max: MGE_CACHE_NAMESPACES_MAX
drain: MGE_CACHE_DRAIN
prices_file: MGE_CACHE_PRICES_FILE
llm_cache_enabled: MGE_V2_LLM_CACHE_ENABLED
rag_cache_enabled: MGE_V2_RAG_CACHE_ENABLED
rag_ttl: MGE_CACHE_RAG_TTL
rag_threshold: MGE_CACHE_RAG_THRESHOLD
rag_rerank_threshold: MGE_CACHE_RAG_RERANK_THRESHOLD
rag_collection_thresholds: MGE_CACHE_RAG_COLLECTION_THRESHOLDS
rag_index_max_rows: MGE_CACHE_RAG_INDEX_MAX_ROWS
rag_index_max: MGE_CACHE_RAG_INDEX_MAX
rag_compact: MGE_CACHE_RAG_COMPACT
rag_query_cost_usd: MGE_CACHE_RAG_QUERY_COST_USD
rag_store_texts: MGE_CACHE_RAG_STORE_TEXTS
reflection: MGE_CACHE_REFLECTION
log_level: MGE_CACHE_LOG_LEVEL
log_format: MGE_CACHE_LOG_FORMAT
{{- end -}}
